"""The student that sees a third of a tile, the teacher that sees all of it, and the small heads between them."""

import copy

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.pretraining.targets import Standard

PATCH, GRID, DIM = 16, 14, 192
TEACHER_BLOCKS = 4  # the teacher's target is the mean of its last blocks, as in data2vec


def build_encoder(depth: int = 12) -> VisionTransformer:
    """The vision transformer that is shipped: ViT-Ti/16 at 224 pixels, its positions begun as sines."""
    encoder = VisionTransformer(
        img_size=GRID * PATCH, patch_size=PATCH, embed_dim=DIM, depth=depth, num_heads=3, num_classes=0
    )
    with torch.no_grad():
        encoder.pos_embed[:, 1:] = 0.5 * sine_positions(DIM)
        encoder.pos_embed[:, :1] = 0
        nn.init.xavier_uniform_(encoder.patch_embed.proj.weight.flatten(1))
    return encoder


def sine_positions(dim: int) -> torch.Tensor:
    """Sines and cosines of row and column for the whole grid, (1, grid * grid, dim)."""
    rates = 1.0 / 100 ** (torch.arange(dim // 4) / (dim // 4))
    angles = torch.arange(GRID)[:, None] * rates
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # (grid, dim / 2)
    rows = line[:, None].expand(GRID, GRID, dim // 2)
    columns = line[None].expand(GRID, GRID, dim // 2)
    return torch.cat([rows, columns], dim=2).reshape(1, GRID * GRID, dim)


def window_positions(corners: torch.Tensor, side: int) -> torch.Tensor:
    """Places in the 14 x 14 grid of the patches of crops of `side` patches whose first patch is at `corners`.

    A crop smaller than the full tile takes a random window of the position table: every place is trained, and the table
    needs no interpolation afterwards. Returns (batch, side * side).
    """
    steps = torch.arange(side)
    grid = steps[:, None] * GRID + steps[None]
    return (corners[:, 0] * GRID + corners[:, 1])[:, None] + grid.flatten()[None]


def encode(
    encoder: VisionTransformer, patches: torch.Tensor, places: torch.Tensor, collect: int = 0
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Run the encoder on some patches of some tiles.

    Parameters: `patches` (batch, tokens, 768) normalised pixels, `places` (batch, tokens) their places in the grid,
    `collect` how many of the last blocks' outputs to return. Returns the normalised tokens, class token first.
    """
    weight = encoder.patch_embed.proj.weight.flatten(1)
    tokens = F.linear(patches, weight, encoder.patch_embed.proj.bias)
    tokens = tokens + encoder.pos_embed[0, 1:][places]
    first = (encoder.cls_token + encoder.pos_embed[:, :1]).expand(len(tokens), -1, -1)
    tokens = torch.cat([first.to(tokens.dtype), tokens], dim=1)  # (batch, 1 + tokens, dim)
    last: list[torch.Tensor] = []
    for index, block in enumerate(encoder.blocks):
        tokens = block(tokens)
        if index >= len(encoder.blocks) - collect:
            last.append(tokens)
    return encoder.norm(tokens), last


class CrossBlock(nn.Module):
    """One decoder block: hidden places ask the seen tokens what is there (CrossMAE)."""

    def __init__(self, dim: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_memory, self.norm_mlp = nn.LayerNorm(dim), nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.memory, self.out = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, queries: torch.Tensor, memory: torch.Tensor) -> torch.Tensor:
        """Queries (batch, asked, dim) and memory (batch, seen, dim) to queries of the same shape."""
        batch, asked, dim = queries.shape
        q = self.query(self.norm_query(queries)).reshape(batch, asked, self.heads, -1).transpose(1, 2)
        k, v = self.memory(self.norm_memory(memory)).reshape(batch, -1, 2, self.heads, dim // self.heads).unbind(2)
        read = F.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2))
        queries = queries + self.out(read.transpose(1, 2).reshape(batch, asked, dim))
        return queries + self.mlp(self.norm_mlp(queries))


class Whitening(nn.Module):
    """Turns features so that every direction varies alike, by a covariance that follows the teacher slowly.

    Without it the few strong directions (the stain's colour) are all that a target rewards; with it, what varies little
    but can be told from the tile counts as much (after W-MSE, Ermolov et al., 2021).
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("map", torch.eye(dim))
        self.register_buffer("seen", torch.zeros(()))

    @torch.no_grad()
    def update(self, features: torch.Tensor, every: int = 10) -> None:
        """Take in one batch of features (batch, dim); the map itself is renewed every few batches."""
        self.seen += 1
        features = features.double()  # double is left alone by autocast; the covariance needs its precision
        pace = max(0.01, 1.0 / float(self.seen))
        self.mean.lerp_(features.mean(dim=0).float(), pace)
        centred = features - self.mean
        self.covariance.lerp_((centred.T @ centred / len(features)).float(), pace)
        if int(self.seen) % every == 1 or self.seen < every:
            values, vectors = torch.linalg.eigh(self.covariance.double())
            # Directions below a hundredth of the mean variance are noise and stay small.
            floor = 0.01 * values.mean() + 1e-8
            self.map.copy_((vectors * (values.clamp_min(0) + floor).rsqrt()) @ vectors.T)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Whitened features, cut at five spreads."""
        return ((features - self.mean).double() @ self.map.double()).float().clamp(-5, 5)


def correlation(features: torch.Tensor) -> torch.Tensor:
    """Squared correlation of a number with all others, summed, and its mean: what VICReg and Barlow Twins lower."""
    centred = features - features.mean(dim=0)
    unit = (centred / (centred.std(dim=0) + 1e-3)).double()
    table = unit.T @ unit / (len(features) - 1)
    return (table.square().sum() - table.diagonal().square().sum()) / len(table)


class Pretrainer(nn.Module):
    """Student, teacher, decoder and heads; everything that a checkpoint holds."""

    def __init__(self, tile_numbers: int, patch_numbers: int, depth: int = 12, decoder_dim: int = 128) -> None:
        super().__init__()
        self.student = build_encoder(depth)
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.memory = nn.Linear(DIM, decoder_dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, decoder_dim))
        self.register_buffer("decoder_positions", sine_positions(decoder_dim)[0])
        self.decoder = nn.ModuleList(CrossBlock(decoder_dim) for _ in range(2))
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.to_pixels = nn.Linear(decoder_dim, 3 * PATCH * PATCH)
        self.to_patch_numbers = nn.Linear(decoder_dim, patch_numbers)
        self.to_latent = nn.Linear(decoder_dim, DIM)
        self.to_tile_numbers = nn.Linear(DIM, tile_numbers)
        self.to_summary = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, 2 * DIM))
        self.whiten_class, self.whiten_mean = Whitening(DIM), Whitening(DIM)
        self.tile_standard, self.patch_standard = Standard(tile_numbers), Standard(patch_numbers)

    def decode(self, tokens: torch.Tensor, seen: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
        """Decoder states at the `asked` places from the encoded `seen` ones, (batch, asked, decoder_dim)."""
        memory = self.memory(tokens)
        first = torch.zeros_like(memory[:, :1])
        memory = memory + torch.cat([first, self.decoder_positions[seen].to(memory.dtype)], dim=1)
        queries = self.mask_token + self.decoder_positions[asked]
        for block in self.decoder:
            queries = block(queries, memory)
        return self.decoder_norm(queries)

    @torch.no_grad()
    def look(self, patches: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The teacher's view of whole tiles: a target for every patch (batch, patches, dim), one for the tile."""
        _, last = encode(self.teacher, patches, places, collect=TEACHER_BLOCKS)
        mean = sum(F.layer_norm(block.float(), (DIM,)) for block in last) / len(last)
        parts = ((self.whiten_class, mean[:, 0]), (self.whiten_mean, mean[:, 1:].mean(dim=1)))
        for whiten, features in parts:
            whiten.update(features)
        summary = torch.cat([whiten(features) for whiten, features in parts], dim=1)
        return F.layer_norm(mean[:, 1:], (DIM,)), summary

    @torch.no_grad()
    def follow(self, momentum: float) -> None:
        """Move the teacher towards the student."""
        teacher, student = list(self.teacher.parameters()), list(self.student.parameters())
        torch._foreach_lerp_(teacher, student, 1 - momentum)

    def trainable(self) -> list[nn.Parameter]:
        """The parameters that the optimiser moves: all but the teacher's."""
        return [p for name, p in self.named_parameters() if not name.startswith("teacher.")]
