"""The sizes that the study is made at: each module has a constant PROFILE."""
