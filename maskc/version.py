"""The version of the package, which models that it writes carry as well."""

__version__ = "0.1.0"
