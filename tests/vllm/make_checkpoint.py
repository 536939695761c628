"""Write a tiny Llama 4 with random weights: `python make_checkpoint.py FOLDER`, under the Python of vLLM.

A real architecture (mixture of experts, chunked attention, every fourth layer without rotary positions) with
a tokenizer and a chat template of its own, in a few megabytes. What it says means nothing; how it is served
is real.
"""

import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Llama4ForCausalLM, Llama4TextConfig, PreTrainedTokenizerFast

BEGIN, END_OF_TURN, PAD = "<|begin_of_text|>", "<|eot|>", "<|finetune_right_pad|>"
HEADER_START, HEADER_END = "<|header_start|>", "<|header_end|>"
SPECIAL_TOKENS = [BEGIN, "<|end_of_text|>", HEADER_START, HEADER_END, "<|eom|>", END_OF_TURN, PAD]
VOCABULARY = 1024
SEED = 4

# Enough text for a byte-pair vocabulary that makes English shorter and leaves digits as they are.
TRAINING_TEXT = (
    "A gateway sends each request to a replica, and tells finance what every token cost. "
    "Ships carry grain, letters and news over the sea; the harbour master writes down what each brought. "
)

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    f"{HEADER_START}{{{{ message['role'] }}}}{HEADER_END}\n\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}"
    f"{END_OF_TURN}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{HEADER_START}assistant{HEADER_END}\n\n{{% endif %}}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: any text can be written with it."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TRAINING_TEXT] * 50, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token=BEGIN,
        eos_token=END_OF_TURN,
        pad_token=PAD,
        extra_special_tokens=[HEADER_START, HEADER_END],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def config(of: PreTrainedTokenizerFast) -> Llama4TextConfig:
    return Llama4TextConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        intermediate_size_mlp=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=8192,
        attention_chunk_size=8192,
        num_local_experts=4,
        num_experts_per_tok=1,
        interleave_moe_layer_step=1,
        no_rope_layers=[1, 1, 1, 0],
        use_qk_norm=True,
        attn_temperature_tuning=True,
        bos_token_id=of.bos_token_id,
        eos_token_id=of.eos_token_id,
        pad_token_id=of.pad_token_id,
        dtype="bfloat16",
    )


def model(of: PreTrainedTokenizerFast) -> Llama4ForCausalLM:
    """Weights are drawn here: what the class leaves uninitialised may hold anything."""
    torch.manual_seed(SEED)
    made = Llama4ForCausalLM(config(of)).to(torch.bfloat16)
    for name, weights in made.named_parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.02)
        else:
            torch.nn.init.constant_(weights, 1.0 if "norm" in name else 0.0)
    return made


def write(folder: Path) -> None:
    words = tokenizer()
    model(words).save_pretrained(folder)
    words.save_pretrained(folder)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
