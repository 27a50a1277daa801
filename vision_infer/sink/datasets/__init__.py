"""Datasets for training and labeling tools: a folder of images with their labels."""
