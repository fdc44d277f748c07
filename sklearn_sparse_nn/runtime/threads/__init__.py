"""Threads at prediction."""
