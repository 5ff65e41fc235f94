"""Suites that need no network: their data come with packages or from code, their models are trained here."""
