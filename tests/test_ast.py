"""The published audio spectrogram transformer: the same shapes, the same size, and the same output as the transformers implementation."""
import pytest, torch
from transformers import ASTConfig, ASTForAudioClassification, ASTModel
from audioml.core import BadInput
from audioml.models.encoder import PATCH_PRESETS, PatchConfig, PatchEncoder, ast_weights

SMALL = dict(hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96, patch_size=8, frequency_stride=6, time_stride=5, max_length=60, num_mel_bins=40)


def wide(model):
    "Weights of a size at which a mistake shows; with those of a fresh model almost everything is almost zero."
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn(p.shape, generator=g)*(.3 if 'token' in name or 'position' in name or p.ndim == 1 else 1.5/p[0].numel()**.5))
    return model.eval()


def ours(theirs, cfg, rows):
    with torch.device('meta'): encoder = PatchEncoder(cfg)  # shapes alone: the numbers come now
    encoder.load_state_dict({k: v.clone() for k, v in ast_weights(theirs.state_dict(), rows).items()}, strict=True, assign=True)
    return encoder.requires_grad_().eval()


@pytest.fixture(scope='module')
def published(): # random weights: what is compared is the computation
    torch.manual_seed(0)
    return wide(ASTForAudioClassification(ASTConfig(num_labels=527)))


def test_the_published_size():
    with torch.device('meta'): encoder, reference = PatchEncoder(PATCH_PRESETS['ast']), ASTForAudioClassification(ASTConfig(num_labels=527))
    head = 2*768 + 768*527 + 527  # LayerNorm and a layer for the 527 classes of AudioSet
    n = sum(p.numel() for p in encoder.parameters()) + head
    assert 86e6 < n < 87e6
    assert n == sum(p.numel() for p in reference.parameters()) - 2*768  # the places of CLS and DIST are added to the tokens
    assert len(encoder.blocks) == 12 and encoder.positions.shape == (12, 101, 768) and encoder.extra.shape == (1, 2, 768)
    assert encoder.patches.weight.shape == (768, 1, 16, 16)


@torch.no_grad()
def test_the_published_model_gives_the_same_output(published):
    encoder, x = ours(published, PATCH_PRESETS['ast'], 12), torch.randn(1, 1024, 128, generator=torch.Generator().manual_seed(1))/2
    out, theirs = encoder(x), published.audio_spectrogram_transformer(x)
    assert out.tokens.shape == (1, 1212, 768) and out.extra.shape == (1, 2, 768) and out.mask.all()
    got, want = torch.cat([out.extra, out.tokens], 1), theirs.last_hidden_state
    assert want.std() > .3 and want.std(1).mean() > .1, 'the comparison would show nothing'
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.extra.mean(1), theirs.pooler_output, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(published.classifier(out.extra.mean(1)), published.classifier(theirs.pooler_output), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize('attention', ['eager', 'sdpa'])
def test_outputs_and_gradients_of_another_size(attention):
    theirs = wide(ASTModel(ASTConfig(**SMALL, attn_implementation=attention)))
    cfg = PatchConfig(n_mels=40, max_frames=60, patch=(8, 8), stride=(6, 5), dim=48, n_layers=3, n_heads=4, expand=2., n_extra=2, dropout=0.)
    encoder, x = ours(theirs, cfg, 6).train(), torch.randn(3, 60, 40)
    out, want = encoder(x, hidden=True), theirs(x, output_hidden_states=True)
    torch.testing.assert_close(torch.cat([out.extra, out.tokens], 1), want.last_hidden_state, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(out.hidden[0], want.hidden_states[1][:, 2:], atol=1e-4, rtol=1e-4)
    weight = torch.randn(48)
    (out.tokens.square().mean((0, 1)) @ weight).backward(); (want.last_hidden_state[:, 2:].square().mean((0, 1)) @ weight).backward()
    grads = ast_weights({k: p.grad for k, p in theirs.named_parameters() if p.grad is not None}, 6)
    grads.pop('extra')  # token and place are one parameter here
    for name, p in encoder.named_parameters():
        if name in grads: torch.testing.assert_close(p.grad, grads[name], atol=1e-4, rtol=1e-3, msg=lambda m: f'{name}: {m}')


@torch.no_grad()
def test_padding_and_windows_of_other_lengths():
    cfg = PATCH_PRESETS['ast'].replace(dim=96, n_layers=2)
    encoder, x = wide(PatchEncoder(cfg)), torch.randn(1, 300, 128)/2
    mask = torch.arange(300)[None] < 206  # the last real column ends there
    out, alone, wild = encoder(x, mask), encoder(x[:, :206]), encoder(torch.where(mask[..., None], x, 50.), mask)
    seen = out.mask.view(12, -1)[0].sum().item()
    assert seen == 21, 'a column is real when any of its frames is'
    full = lambda o, n: o.tokens.view(12, -1, 96)[:, :n]
    out, wild = (encoder(v, None, keep=torch.arange(cfg.grid(300)[1]).lt(20).repeat(12)[None]) for v in (x, torch.where(mask[..., None], x, 50.)))
    torch.testing.assert_close(out.extra, wild.extra)
    torch.testing.assert_close(full(out, 20), full(alone, 20), atol=1e-5, rtol=1e-4)
    for n in (5, 16, 300, 1500):
        tokens = encoder(torch.randn(1, n, 128)/2).tokens
        rows, columns = cfg.grid(n)
        assert tokens.shape == (1, rows*columns, 96) and tokens.isfinite().all()


def test_weights_of_something_else_are_refused():
    theirs = ASTModel(ASTConfig(**SMALL)).state_dict()
    with pytest.raises(BadInput, match='no weights of an AST'): ast_weights({'x': torch.zeros(1)})
    with pytest.raises(BadInput, match='no weights of an AST.*k_proj'): ast_weights({k: v for k, v in theirs.items() if 'layers.1.attention.k_proj' not in k})
    with pytest.raises(BadInput, match='no grid of 7 rows'): ast_weights(theirs, 7)
