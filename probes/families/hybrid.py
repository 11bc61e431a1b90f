"""State-space models and hybrids: `mixer.out` is what a Mamba or short-convolution mixer adds."""

from .family import Family, Place

HYBRID = (
    Family(
        name="mamba2",
        model_types=("mamba2",),
        layers="backbone.layers",
        embed="backbone.embeddings",
        final_norm="backbone.norm_f",
        first_hidden_state=1,
        places={"mixer.out": Place("mixer")},
    ),
    Family(
        name="bamba",
        model_types=("bamba",),
        final_norm="model.final_layernorm",
        places={
            "attn.out": Place("self_attn"),
            "mixer.out": Place("mamba"),
            "resid_mid": Place("pre_ff_layernorm", "input"),
            "mlp.hidden": Place("feed_forward.down_proj", "input"),
            "mlp.out": Place("feed_forward"),
        },
    ),
    Family(
        name="lfm2",
        model_types=("lfm2",),
        final_norm="model.embedding_norm",
        places={
            "attn.out": Place("self_attn"),
            "mixer.out": Place("conv"),
            "resid_mid": Place("ffn_norm", "input"),
            "mlp.hidden": Place("feed_forward.w2", "input"),
            "mlp.out": Place("feed_forward"),
        },
    ),
)
