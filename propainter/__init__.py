"""ProPainter in plain PyTorch, written from docs/model.md: networks, published inference, video files, weights.

"ProPainter: Improving Propagation and Transformer for Video Inpainting" (Zhou, Li, Chan, Loy; ICCV 2023).
"""

import sys
from typing import TYPE_CHECKING

from propainter.renamed import RenamedModules, module_getattr

if TYPE_CHECKING:
    from propainter.errors import InputError
    from propainter.inference.inpaint_stream import inpaint_stream
    from propainter.inference.interfaces import STAGES, Clip, Observer, Scene
    from propainter.inference.pipeline import Pipeline, inpaint
    from propainter.inference.propagation import propagate_pixels
    from propainter.inference.storage import DeviceStorage
    from propainter.models.flow_completion import complete_flow
    from propainter.models.networks import Networks, build_networks, load_weights, published_state, seeded_state_dict
    from propainter.models.raft import estimate_flow
    from propainter.schedule import Schedule, Window, plan_windows

__all__ = [
    "STAGES",
    "Clip",
    "DeviceStorage",
    "InputError",
    "Networks",
    "Observer",
    "Pipeline",
    "Scene",
    "Schedule",
    "Window",
    "build_networks",
    "complete_flow",
    "estimate_flow",
    "inpaint",
    "inpaint_stream",
    "load_weights",
    "plan_windows",
    "propagate_pixels",
    "published_state",
    "seeded_state_dict",
]

_FROM = {
    "errors": ["InputError"],
    "inference.inpaint_stream": ["inpaint_stream"],
    "inference.interfaces": ["STAGES", "Clip", "Observer", "Scene"],
    "inference.pipeline": ["Pipeline", "inpaint"],
    "inference.propagation": ["propagate_pixels"],
    "inference.storage": ["DeviceStorage"],
    "models.flow_completion": ["complete_flow"],
    "models.networks": ["Networks", "build_networks", "load_weights", "published_state", "seeded_state_dict"],
    "models.raft": ["estimate_flow"],
    "schedule": ["Schedule", "Window", "plan_windows"],
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _FROM.items() for name in names}

_RENAMED_MODULES = """
    attention:models.attention blocks:models.layers compositing:inference.compositing files:io.atomic
    flow_completion:models.flow_completion generator:models.generator growing_video:io.fragmented_writer
    light_torchvision:models.lazy_torchvision memory:memory_tracker networks:models.networks
    pipeline:inference.pipeline propagation:inference.propagation raft:models.raft seams:inference.interfaces
    settings:validation span:inference.frame_buffer stages:inference.pipeline storage:inference.storage
    streaming:inference.streaming transformer:models.transformer video:io.video warp:models.warp
"""
_RENAMED_INTERFACES = """
    OverStages:StageRunner OverTime:ClipSplitter encode_every_window:encode_per_window
    generate_every_window:predict_per_window whole_clip:no_split window_after_window:sequential_windows
"""
_RENAMED_NAMES = {
    "inference.compositing": """
        MIN_SIDE:inference.preparation.MIN_SIDE check_clip:inference.preparation.check_clip
        prepare_frames:inference.preparation.prepare_frames prepare_masks:inference.preparation.prepare_masks
        process_size:inference.preparation.process_size resize_back:inference.preparation.resize_back
        resize_masks:inference.preparation.resize_masks
    """,
    "inference.frame_buffer": "Span:FrameBuffer SpanScene:BufferedScene",
    "inference.interfaces": _RENAMED_INTERFACES,
    "inference.pipeline": f"""{_RENAMED_INTERFACES}
        STAGES:inference.interfaces.STAGES predictor:inference.pipeline.Pipeline.observed_predictor
        stage_after_stage:inference.pipeline.Pipeline.run_stages
    """,
    "inference.storage": "Resident:DeviceStorage",
    "inference.streaming": """
        WINDOWS_TOGETHER:inference.streaming_run.WINDOWS_TOGETHER as_prediction:inference.streaming_run.as_prediction
    """,
    "io.atomic": """
        ABANDONED_SECONDS:io.disk_cache.ABANDONED_SECONDS BoundedFolder:io.disk_cache.DiskLRUCache
        written_whole:atomic_write
    """,
    "io.fragmented_writer": "GrowingVideoWriter:FragmentedVideoWriter",
    "io.video": """
        IMAGE_SUFFIXES:io.images.IMAGE_SUFFIXES list_images:io.images.list_images read_image:io.images.read_image
        read_mask:io.images.read_mask write_png:io.images.write_png VideoWriter:io.video_writer.VideoWriter
        ENCODERS:io.video_writer.ENCODERS libav_as_oserror:io.video_writer.libav_as_oserror
    """,
    "memory_tracker": """
        KERNELS_KEPT:allocator.KERNELS_KEPT LARGEST_FROM_HEAP_BYTES:allocator.LARGEST_HEAP_BLOCK_BYTES
        freed_memory_kept:allocator.no_heap_trim give_back_freed:allocator.malloc_trim
        give_back_unused:allocator.release_memory keep_few_kernels:allocator.set_onednn_cache_capacity
        large_tensors_mapped:allocator.mmap_threshold
    """,
    "models.flow_completion": "OverFrames:FramewiseCall all_together:unbatched",
    "models.warp": """
        consistent:forward_backward_consistency pass_order:propagation_order positions:flow_to_grid sample:warp
    """,
}
sys.meta_path.append(RenamedModules(__name__, _RENAMED_MODULES, _RENAMED_NAMES))

# Imports are lazy: a sweep's parent process must not import torch.
__getattr__ = module_getattr(__name__, "Resident:DeviceStorage", lazy=_MODULE_OF)
