"""What a release states about itself agrees."""

import re

from hatchling.metadata.core import ProjectMetadata
from hatchling.plugin.manager import PluginManager

import lightning_noise
from testing.launch import ROOT


def test_the_package_has_the_version_of_the_module():
    assert ProjectMetadata(str(ROOT), PluginManager()).version == lightning_noise.__version__


def test_the_changelog_has_what_follows_first_and_then_this_version():
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    first, second, *_ = headings
    assert first == "[Unreleased]"
    assert second.split(" - ")[0] == lightning_noise.__version__
