"Packages the exported library and, where cargo is at hand, the Rust BPE crate."
from configparser import ConfigParser
from pathlib import Path
from setuptools import find_packages, setup

here = Path(__file__).parent
cfg = ConfigParser(delimiters=["="])
cfg.read(here/"settings.ini", encoding="utf-8")
cfg = cfg["DEFAULT"]

try:
    from setuptools_rust import Binding, RustExtension
    # optional: without cargo there is still the library, which then trains tokenizers in Python (chapter 01)
    rust = [RustExtension("nanochat.rustbpe", path="rustbpe/Cargo.toml", binding=Binding.PyO3,
                          features=["python"], debug=False, optional=True, py_limited_api=True)]
except ImportError:
    rust = []

setup(
    name=cfg["lib_name"], version=cfg["version"], description=cfg["description"], author=cfg["author"],
    license="MIT", python_requires=f">={cfg['min_python']}",
    long_description=(here/"README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    packages=find_packages(include=["nanochat", "nanochat.*"]), zip_safe=False,
    package_data={"nanochat": ["ui.html", "*.toml", "hf/*.py", "hf/*.jinja"]},
    install_requires=cfg["requirements"].split(),
    extras_require={"dev": cfg["dev_requirements"].split(), "loggers": cfg["loggers_requirements"].split()},
    rust_extensions=rust, options={"bdist_wheel": {"py_limited_api": "cp311"}} if rust else {},
    entry_points={"nbdev": ["nanochat=nanochat._modidx:d"]},
)
