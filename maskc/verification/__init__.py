"""What `verify` is made of: data to compare on, judging errors, finding where two models part."""
