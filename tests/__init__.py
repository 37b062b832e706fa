"""The tests. This file keeps the name from a package of the same name that another project installs."""
