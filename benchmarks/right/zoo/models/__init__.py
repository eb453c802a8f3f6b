"""The entries of the zoo, by the package that defines the models."""
