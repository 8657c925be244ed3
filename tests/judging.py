"""A pytest plugin for runs that only ask whether a planted bug is found: no example is made smaller or explained.

Making a failing example small takes hypothesis most of a run, and nobody reads it here.
"""

from __future__ import annotations

from hypothesis import Phase, settings

settings.register_profile("judging", deadline=None, database=None, phases=(Phase.explicit, Phase.generate))
settings.load_profile("judging")
