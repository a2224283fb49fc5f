"""What a model says: ranking, decoding and the predictions file."""
