"""Entry point for old tools; everything is declared in setup.cfg."""

from setuptools import setup

setup()
