"""The cellar: flags, folders, files written whole, devices, progress, errors. No slide shows it."""
