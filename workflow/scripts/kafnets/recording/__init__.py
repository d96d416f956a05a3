"""What computes, to files: a record that proves itself, made once, however often it is stopped."""
