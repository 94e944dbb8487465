"""Are learned chunks worth anything? Languages with known boundaries, and every chunker as its own control."""
