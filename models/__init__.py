"""Manifests of the models that the package can run, and the recipe of the embedded one."""
