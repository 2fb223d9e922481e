"""The library behind the CLI: what data owners, requesters and admins do from their own machines. No process imports it."""
