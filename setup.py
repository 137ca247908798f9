"Packaging from settings.ini, the one place where names, bounds and versions are written."
from configparser import ConfigParser
from pathlib import Path
from shutil import copyfile
from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here/'settings.ini', encoding='utf8')
cfg = ini['DEFAULT']
readme = here/'README.md'

class BuildWithRuns(build_py):
    "Puts nbs/runs/*.ipynb into the wheel as audioml/runs/; an editable install reads them where they are."
    def run(self):
        super().run()
        if self.editable_mode: return
        runs = Path(self.build_lib)/cfg['lib_path']/'runs'
        runs.mkdir(parents=True, exist_ok=True)
        for nb in sorted((here/'nbs'/'runs').glob('*.ipynb')): copyfile(nb, runs/nb.name)

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], keywords=cfg['keywords'],
    author=cfg['author'], author_email=cfg['author_email'], license='Apache-2.0', url=cfg['git_url'],
    long_description=readme.read_text(encoding='utf8') if readme.exists() else '', long_description_content_type='text/markdown',
    packages=find_packages(include=['audioml', 'audioml.*']), package_data={'audioml': ['bundles/**']},
    include_package_data=False, zip_safe=False, cmdclass={'build_py': BuildWithRuns},
    python_requires='>=' + cfg['min_python'], install_requires=cfg['requirements'].split(),
    extras_require={k: cfg[f'{k}_requirements'].split() for k in ('dev', 'ui', 'track', 'bench', 'distributed')},
    entry_points={'console_scripts': cfg['console_scripts'].split(), 'nbdev': [f"{cfg['lib_path']}={cfg['lib_path']}._modidx:d"]},
)
