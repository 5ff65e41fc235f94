"""Many runs that answer one question: the papers' tables and figures, and analyses that score models."""
