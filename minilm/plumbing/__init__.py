"""Basics of all rooms: flags, folders, atomic writes, scripts' begin and end, errors. No slide shows it."""
