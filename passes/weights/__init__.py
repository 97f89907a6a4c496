"""What is inside an initializer: its values as they are asked for, its zeros, its few bits."""
