"""Everything that speaks to the CRM."""
