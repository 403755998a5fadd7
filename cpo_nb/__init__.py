__version__ = "0.1.0"


def __getattr__(name):
    # diffusers looks a pipeline's own component up in the top package; imported only when asked for
    if name == "PatchAutoencoder":
        from cpo_nb.atelier_base import PatchAutoencoder
        return PatchAutoencoder
    raise AttributeError(f"module 'cpo_nb' has no attribute {name!r}")
