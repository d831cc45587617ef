"""Devices, their memory and programs, and the plans that run on them."""
