"""What the CRM asks of us over HTTP."""
