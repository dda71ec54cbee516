"""Tests of what hides who is who."""
