"""Offscreen rendering: the OpenGL backend, render profiles, and upright images at any size.

Rendering takes most of an episode's time on a machine without a GPU, so this module does three things that robosuite's
own renderer does not:

- The `fast` profile leaves out the shadow map, reflections and multisampling.
- With that profile, geometry outside a camera's view is not submitted (the image is the same bit for bit).
- The model's OpenGL context is created once, at the first frame, and survives every reset.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import importlib
import os
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from s2robot_envs.errors import EnvConfigError, RenderingError, unknown_name

INSTALL_COMMAND = "sudo apt-get install -y libegl1 libgl1-mesa-dri"

# Shared libraries of each backend, of which one must load. None: the desktop's driver provides it.
_BACKEND_LIBRARIES: dict[str, tuple[str, ...] | None] = {
    "egl": ("libEGL.so.1",),
    "osmesa": ("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so"),
    "glfw": None,
}


def ensure_gl_backend() -> str:
    """Choose the OpenGL backend and export it as `MUJOCO_GL`; a value that is already set is kept.

    EGL comes first, because it can use a GPU and is at least as fast in software; OSMesa is second. Call this before
    anything imports `mujoco` or `robosuite`, as `make_env` does.

    Returns:
        `egl`, `osmesa` or `glfw`.

    Raises:
        RenderingError: the backend's library is not installed; the message has the command that installs it.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if not chosen:
        chosen = next((name for name in ("egl", "osmesa") if _library_loads(name)), "")
        if not chosen:
            raise RenderingError(f"no OpenGL library found (libEGL, libOSMesa); install one: {INSTALL_COMMAND}")
        os.environ["MUJOCO_GL"] = chosen
    if chosen not in _BACKEND_LIBRARIES:
        raise RenderingError(unknown_name("OpenGL backend in MUJOCO_GL", chosen, _BACKEND_LIBRARIES))
    if not _library_loads(chosen):
        raise RenderingError(f"MUJOCO_GL={chosen}, but its library is not installed; run: {INSTALL_COMMAND}")
    return chosen


def _library_loads(backend: str) -> bool:
    names = _BACKEND_LIBRARIES[backend]
    if names is None:
        return True
    if backend == "osmesa":  # it brings its LLVM as soon as it is loaded, not at the first frame
        load_triton_first()
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        return True
    return False


@functools.cache
def load_triton_first() -> None:
    """Load Triton's copy of LLVM (if installed) before Mesa's, because the other order ends in a segmentation fault."""
    with contextlib.suppress(ImportError):
        importlib.import_module("triton._C.libtriton")


def _create_gl_context(size: int) -> Any:
    backend = ensure_gl_backend()
    load_triton_first()
    # mujoco chooses the context class that it exports when it is imported, which may be before MUJOCO_GL was set. So
    # import the class by name.
    try:
        if backend == "egl":
            from mujoco.egl import GLContext
        elif backend == "osmesa":
            from mujoco.osmesa import GLContext
        else:
            from mujoco.glfw import GLContext
        context = GLContext(size, size)
        context.make_current()
    except Exception as error:  # PyOpenGL and mujoco raise many types here
        raise RenderingError(
            f"cannot create an OpenGL context with MUJOCO_GL={backend} ({error}); "
            f"for software rendering run: {INSTALL_COMMAND}"
        ) from error
    return context


def _renderer_name() -> str | None:
    """Return renderer and version of the current OpenGL context: "llvmpipe (LLVM 15.0.6, 256 bits), 4.5 … Mesa".

    None if PyOpenGL fails, because a missing name must not stop a rollout.
    """
    try:
        from OpenGL import GL  # imported late, because mujoco's backend first tells PyOpenGL the platform

        return ", ".join((GL.glGetString(name) or b"unknown").decode() for name in (GL.GL_RENDERER, GL.GL_VERSION))
    except Exception:  # PyOpenGL raises many types
        return None


@dataclass(frozen=True)
class RenderProfile:
    """What the renderer draws: shadows, reflections, and samples per pixel (0 = no antialiasing)."""

    shadows: bool
    reflections: bool
    samples: int


RENDER_PROFILES = {
    "full": RenderProfile(shadows=True, reflections=True, samples=4),  # robosuite's own look
    "fast": RenderProfile(shadows=False, reflections=False, samples=0),
}


def get_render_profile(name: str) -> RenderProfile:
    """Look up a render profile by name.

    Raises:
        EnvConfigError: the profile is unknown; the message lists the choices.
    """
    if name not in RENDER_PROFILES:
        raise EnvConfigError(unknown_name("render profile", name, RENDER_PROFILES))
    return RENDER_PROFILES[name]


class OffscreenRenderer:
    """Render one MuJoCo model, with an OpenGL context of its own from construction to `close`.

    Args:
        model: the `mujoco.MjModel`; its offscreen buffer and quality settings are changed, its physics is not.
        profile: the render profile.
        max_size: largest image side that `render` will be called with, in pixels.
        hidden_groups: groups of geometry that are not drawn, in addition to MuJoCo's own (3, 4 and 5).

    Attributes:
        name: OpenGL's renderer and version. Pixels depend on them, and in software also on the processor.

    Raises:
        RenderingError: no OpenGL context can be created.
    """

    def __init__(self, model: Any, profile: RenderProfile, max_size: int, hidden_groups: Sequence[int] = ()) -> None:
        import mujoco

        self._mujoco = mujoco
        self._model = model
        self._profile = profile
        self._max_size = max_size
        model.vis.global_.offwidth = model.vis.global_.offheight = max_size
        model.vis.quality.offsamples = profile.samples
        if not profile.shadows:
            model.vis.quality.shadowsize = 0
        self._gl = _create_gl_context(max_size)
        self.name = _renderer_name()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, maxgeom=10_000)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = profile.shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = profile.reflections
        self._options = mujoco.MjvOption()
        self._options.geomgroup[list(hidden_groups)] = 0
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        # OpenGL objects must be freed before the interpreter closes the display, even if `close` is never called.
        atexit.register(_close_if_alive, weakref.ref(self))

    def render(self, data: Any, camera_id: int, size: int) -> np.ndarray:
        """Render one camera.

        Args:
            data: `mujoco.MjData` whose positions are up to date.
            camera_id: index of a camera of the model.
            size: height = width in pixels, at most `max_size`.

        Returns:
            uint8 [size, size, 3], upright (row 0 is the top).
        """
        mujoco = self._mujoco
        if size > self._max_size:
            raise RenderingError(f"image size {size} exceeds the renderer's buffer of {self._max_size} pixels")
        self._gl.make_current()
        self._update_scene(data, camera_id)
        viewport = mujoco.MjrRect(0, 0, size, size)
        pixels = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, viewport, self._context)
        return np.ascontiguousarray(pixels[::-1])  # OpenGL's rows run bottom-up

    def upload_textures(self, indices: Iterable[int]) -> None:
        """Send textures of the model to OpenGL again, after their pixels changed."""
        self._gl.make_current()
        for index in indices:
            self._mujoco.mjr_uploadTexture(self._model, self._context, index)

    def _update_scene(self, data: Any, camera_id: int) -> None:
        model = self._model
        self._camera.fixedcamid = camera_id
        groups = model.geom_group.copy()
        # Unseen geometry may still throw a shadow or be reflected, so it is dropped only where neither is drawn.
        if not (self._profile.shadows or self._profile.reflections):
            model.geom_group[~_in_view(self._mujoco, model, data, camera_id)] = 0
        self._mujoco.mjv_updateScene(
            model, data, self._options, None, self._camera, self._mujoco.mjtCatBit.mjCAT_ALL, self._scene
        )
        model.geom_group[:] = groups

    def close(self) -> None:
        """Free the OpenGL context; closing twice is harmless."""
        gl, self._gl = self._gl, None
        if gl is not None:
            gl.make_current()  # freeing acts on the current context, which may be another environment's
            self._context.free()
            gl.free()

    def __del__(self) -> None:
        if getattr(self, "_camera", None) is not None:  # else the constructor failed
            self.close()


def _close_if_alive(reference: weakref.ref[OffscreenRenderer]) -> None:
    renderer = reference()
    if renderer is not None:
        renderer.close()


def _in_view(mujoco: Any, model: Any, data: Any, camera_id: int) -> np.ndarray:
    """Return which geoms' bounding spheres reach into the camera's view frustum, bool [ngeom]."""
    # Camera coordinates: x right, y up, the camera looks along -z. Images are square, so both axes have one half-angle.
    position = (data.geom_xpos - data.cam_xpos[camera_id]) @ data.cam_xmat[camera_id].reshape(3, 3)
    half_angle = np.deg2rad(model.cam_fovy[camera_id]) / 2
    radius, depth = model.geom_rbound, -position[:, 2]
    beyond_sides = (
        np.abs(position[:, :2]) * np.cos(half_angle) - (depth * np.sin(half_angle))[:, None] > radius[:, None]
    )
    unbounded = model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE  # planes have radius 0
    return unbounded | ((depth > -radius) & ~beyond_sides.any(axis=1))
