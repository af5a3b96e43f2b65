"""The cellar: flags, folders, files written whole, how scripts begin and end, errors. No slide shows it."""
