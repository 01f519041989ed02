"""What vulture takes for unused and is not, by who uses it. Vulture reads this; nobody runs it."""

from __future__ import annotations

from typing import Any

_: Any

# Python: a package's lazy names, a wrapper's original, a module's loader.
_.__getattr__
_.__dir__
_.__wrapped__
_.__loader__

# mkdocs calls the hooks of `tools/site_pages.py`.
_.on_files
_.on_page_markdown

# urllib calls it.
_.redirect_request

# Textual calls handlers by their message, actions by the key table (`tui/keys.py`), and reads the rest.
_.on_click
_.on_input_changed
_.on_input_submitted
_.on_line_list_moved
_.on_line_list_opened
_.on_mount
_.on_rank_map_view_moved
_.on_rank_map_view_opened
_.on_resize
_.on_unmount
_.get_driver_class
_.get_line_filters
_.watch_theme
_.action_across
_.action_copy
_.action_culprit
_.action_dump
_.action_edge
_.action_export
_.action_filter
_.action_go_to_rank
_.action_group
_.action_help
_.action_interrupt
_.action_leave
_.action_move
_.action_page
_.action_pane
_.action_pause
_.action_sort
_.action_sort_reverse
_.action_step
_.action_zoom
_.render_line
_.animation_level
_.BINDINGS
_.border_subtitle
_.border_title
_.COMMANDS
_.COMPONENT_CLASSES
_.CSS_PATH
_.cursor_blink
_.discover
_.display
_.placeholder
_.theme
_.TITLE
_.virtual_size

# click: the lazy group of commands.
_.format_commands
_.get_command

# uvicorn.
_.should_exit
_.on_tick

# pickle.Unpickler.
_.find_class
_.persistent_load

# Fields of report.json and of journals that msgspec writes and others read.
_.condition_line
_.deadline_in_s
_.cwd
_.memory_bytes
_.schema

# Users and tests: Ray's hook by its name in the environment, what docs/frameworks.md tells of
# SGLang, and what is hooked and unhooked again.
_.extend_runtime_env
_.missing_state
_.statuses
_.undo_all

# SGLang's own attention reads it.
_.tp_v_head_num

# What the report's templates read.
_.pictures
_.strips_left_out
_.window_s
