"""What pyproject.toml cannot say: the folders `checkpoints` and `examples` of a checkout become parts of the package.

`vlcompare/paths.py` finds them in either place. Nothing is built inside the checkout, so that no copy of them stays
there, and no file that was deleted since gets into a wheel.
"""

import tempfile

from setuptools import find_packages, setup

SHIPPED = ("checkpoints", "examples")

built = tempfile.TemporaryDirectory(prefix="vlcompare-build-")  # kept by this name until the process ends

setup(
    license="MIT",  # here: no form of it in pyproject.toml is read by setuptools both before and after its release 77
    packages=[*find_packages(include=["vlcompare*"]), *(f"vlcompare.{name}" for name in SHIPPED)],
    package_dir={f"vlcompare.{name}": name for name in SHIPPED},
    package_data={"": ["*.css", "*.js", "*.md", "*.txt"], **{f"vlcompare.{name}": ["**/*"] for name in SHIPPED}},
    exclude_package_data={"": ["__pycache__/*"]},  # of the examples' programs, where they were run
    include_package_data=False,
    options={"build": {"build_base": built.name}, "egg_info": {"egg_base": built.name}},
)
