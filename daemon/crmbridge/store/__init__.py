"""All that lasts."""
