"""Recording, training and evaluation of control inside one attempt."""
