"""The methods: one file each, with the paper's steps in order."""
