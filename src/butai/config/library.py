"""The library, and the patrol that checks it."""

from __future__ import annotations

from typing import Literal

from butai.config.environment import Section, section_config


class AssetSettings(Section):
    """Limits and times of the library. Sizes are bytes."""

    model_config = section_config()

    max_vrm_bytes: int = 200 * 1024**2
    """Largest avatar (the studios' limit today)."""

    max_animation_bytes: int = 200 * 1024**2
    """Largest animation file."""

    max_bgm_bytes: int = 50 * 1024**2
    """Largest background music file."""

    max_hdr_bytes: int = 100 * 1024**2
    """Largest HDR environment."""

    max_scene_bytes: int = 200 * 1024**2
    """Largest scene."""

    max_sidecar_bytes: int = 10 * 1024**2
    """Largest `_thumb.png` or `_meta.json`."""

    upload_memory_bytes: int = 48 * 1024**2
    """Memory for the parts of all uploads of one process together; what does not fit waits in unlinked temporary
    files."""

    upload_idle_timeout: float = 30.0
    """Seconds without a byte from the client before an upload is given up (`client_disconnected`). One that sends less than
    4 KiB/s ends as well, after a minute (`request_timeout`)."""

    upload_lease: float = 30.0
    """Seconds without a sign of life from an upload's process after which the upload counts as dead. The process renews
    it at a third of this time."""

    presigned_expiry: int = 900
    """Seconds that a signed upload URL works (the contract's 900)."""

    trash_days: float = 30.0
    """Days between the trash and the purge, and for which a failed upload is shown."""

    default_visibility: Literal["public", "private"] = "private"
    """The visibility of a new upload until its owner changes it."""

    reserved_keys: tuple[str, ...] = ("AvatarSample_*",)
    """Patterns of the names of the studio's own files, as a JSON list; `*` stands for any text. Under such a key a user's file
    is the user's alone: as a name for all callers it is given to operators' files, and to those without an owner."""

    resumable_hours: float = 24.0
    """Hours for which an interrupted tus upload can be resumed."""

    open_uploads: int = 200
    """Most uploads of one user that are begun and not ended, resumable or by a signed URL or a form, before the next one is
    refused (`quota_exceeded`); 0: no limit. A studio that sends a folder has a few open at a time."""

    quota_bytes: int = 20 * 1024**3
    """Most bytes of one user's files together, including the trash, uploads in progress, replaced files until they are
    removed (ten minutes), and whatever a signed URL may still write; 0: no limit, as in `butai up`. 20 GiB
    are a hundred of the largest avatars, or a thousand usual ones."""

    quota_files: int = 5_000
    """Most files of one user, including failed uploads, which are purged as the trash is; 0: no limit, as in `butai up`."""


class PatrolSettings(Section):
    """The patrol, which checks that each object is still in the store."""

    model_config = section_config("BUTAI_PATROL_")

    minutes: float = 60.0
    """Minutes between two runs, and between two checks of a file that is in use."""

    cold_hours: float = 24.0
    """Hours between two checks of a file that has not been read for a day."""

    rate: float = 500.0
    """Most objects that are checked in a second; 0: no limit."""

    recheck_minutes: float = 10.0
    """Where the store answers 403 for an absent object: minutes between the two checks that make a file missing."""
