"""Figures as tables, drawings, files and pages."""
