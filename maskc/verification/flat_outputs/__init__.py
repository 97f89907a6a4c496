"""Where outputs hardly move with the inputs, or with some weights: what is inside the models is compared as well."""
