"""How numbers are made: pure functions of tensors. No model, no file, no device belongs here."""
