"""Thin bridges to Lightning and MLflow."""
