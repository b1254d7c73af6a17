"""Prefect and the command line: a thin shell over `discovery/` that schedules and shows, and computes nothing."""
