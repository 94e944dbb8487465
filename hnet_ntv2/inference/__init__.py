"""What every use of a trained model shares: loading it, cutting long sequences into windows, settings of a job."""
