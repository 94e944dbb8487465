"""What every use of a trained model needs: loading it, cutting long sequences into windows, files that appear whole."""
