"""Transcriptomics tuning: an encoder of images enhanced by what was measured beside them."""
