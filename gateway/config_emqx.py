"""Section of the questions that an EMQX in front asks."""

from __future__ import annotations

from gateway.config_types import Section


class EmqxSection(Section):
    """``secret_file`` holds what EMQX sends along; without it nobody is answered."""

    secret_file: str = ""
