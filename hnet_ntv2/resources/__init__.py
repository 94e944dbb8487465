"""Files that ship with the package; see README.md in this folder for where they come from."""
