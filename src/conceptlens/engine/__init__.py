"""What is the same for all models: hooks, the concept stream, reading and generating. No family is named here."""
