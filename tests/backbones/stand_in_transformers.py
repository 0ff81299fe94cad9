"""Stand-ins for the layer-normed networks of timm and torchvision: ConvNeXt, ViT and Swin (`stand_ins.py`)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from stand_in_parts import CLASSES, SIDE, Head, LayerNorm2d, Mlp, NormHead, Permute, StochasticDepth, Timm, torchvision_mlp
from torch import Tensor, nn

# ------------------------------------------------------------------------------------------------------------------- ConvNeXt


class TimmConvNeXtBlock(nn.Module):
    def __init__(self, C: int) -> None:
        super().__init__()
        self.conv_dw, self.norm, self.mlp = nn.Conv2d(C, C, 7, padding=3, groups=C), nn.LayerNorm(C, 1e-6), Mlp(C)
        self.gamma, self.shortcut, self.drop_path = nn.Parameter(torch.rand(C)), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.mlp(self.norm(self.conv_dw(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        branch = branch.mul(self.gamma.reshape(1, -1, 1, 1))
        return self.drop_path(branch) + self.shortcut(x)


class TimmConvNeXtStage(nn.Module):
    def __init__(self, inputs: int, C: int, depth: int) -> None:
        super().__init__()
        smaller = nn.Sequential(LayerNorm2d(inputs, 1e-6), nn.Conv2d(inputs, C, 2, 2))
        self.downsample = nn.Identity() if inputs == C else smaller
        self.blocks = nn.Sequential(*(TimmConvNeXtBlock(C) for _ in range(depth)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class TimmConvNeXt(Timm):
    def __init__(self, dims: Sequence[int] = (16, 32), depths: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0], 1e-6))
        inputs = [dims[0], *dims[:-1]]
        self.stages = nn.Sequential(*map(TimmConvNeXtStage, inputs, dims, depths))
        self.num_features, self.norm_pre, self.head = dims[-1], nn.Identity(), NormHead(dims[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm_pre(self.stages(self.stem(x))))


class TorchvisionConvNeXtBlock(nn.Module):
    def __init__(self, C: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.Conv2d(C, C, 7, padding=3, groups=C), Permute(0, 2, 3, 1), nn.LayerNorm(C, 1e-6),
            nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C), Permute(0, 3, 1, 2),
        )  # fmt: skip
        self.layer_scale, self.stochastic_depth = nn.Parameter(torch.rand(C, 1, 1)), StochasticDepth()

    def forward(self, x: Tensor) -> Tensor:
        result = self.stochastic_depth(self.layer_scale * self.block(x))
        result += x
        return result


class TorchvisionConvNeXt(nn.Module):
    def __init__(self, dims: Sequence[int] = (16, 32), depths: Sequence[int] = (1, 2)) -> None:
        super().__init__()
        parts = [nn.Sequential(nn.Conv2d(3, dims[0], 4, 4), LayerNorm2d(dims[0], 1e-6))]
        for C, following, depth in zip(dims, [*dims[1:], 0], depths, strict=True):
            parts.append(nn.Sequential(*(TorchvisionConvNeXtBlock(C) for _ in range(depth))))
            if following:
                parts.append(nn.Sequential(LayerNorm2d(C, 1e-6), nn.Conv2d(C, following, 2, 2)))
        self.features, self.avgpool = nn.Sequential(*parts), nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(LayerNorm2d(dims[-1], 1e-6), nn.Flatten(1), nn.Linear(dims[-1], CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(x)))


# ------------------------------------------------------------------------------------------------------------------------ ViT


def attend(qkv: Tensor, heads: int, bias: Tensor | float = 0.0) -> Tensor:
    """Queries, keys and values (B, N, 3 C), bias (B or 1, heads, N, N) -> (B, N, C)."""
    B, N, C = qkv.shape
    q, k, v = qkv.reshape(B, N, 3, heads, C // 3 // heads).permute(2, 0, 3, 1, 4)
    scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias
    return (scores.softmax(-1) @ v).transpose(1, 2).reshape(B, N, C // 3)


class TimmPatches(nn.Module):
    """(B, 3, 32, 32) -> (B, N, C), or (B, H, W, C) where it stays a map."""

    def __init__(self, C: int, patch: int, *, flat: bool) -> None:
        super().__init__()
        self.img_size, self.flat = (SIDE, SIDE), flat
        self.proj = nn.Conv2d(3, C, patch, patch)
        self.norm = nn.Identity() if flat else nn.LayerNorm(C)

    def forward(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2) if self.flat else x.permute(0, 2, 3, 1))


class TimmAttention(nn.Module):
    def __init__(self, C: int, heads: int) -> None:
        super().__init__()
        self.heads, self.qkv, self.attn_drop, self.norm = heads, nn.Linear(C, 3 * C), nn.Dropout(0.0), nn.Identity()
        self.q_norm, self.k_norm, self.proj, self.proj_drop = nn.Identity(), nn.Identity(), nn.Linear(C, C), nn.Dropout(0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_drop(self.proj(self.norm(attend(self.qkv(x), self.heads))))


class TimmViTBlock(nn.Module):
    def __init__(self, C: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn, self.ls1, self.drop_path1 = (
            nn.LayerNorm(C, 1e-6),
            TimmAttention(C, heads),
            nn.Identity(),
            nn.Identity(),
        )
        self.norm2, self.mlp, self.ls2, self.drop_path2 = nn.LayerNorm(C, 1e-6), Mlp(C), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path1(self.ls1(self.attn(self.norm1(x))))
        x = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return x


class TimmViT(Timm):
    """pooled: h is the mean of the patches' tokens, normed behind the pooling; else the class token."""

    classifier = "head"

    def __init__(self, C: int = 24, heads: int = 3, patch: int = 8, depth: int = 2, *, pooled: bool = False) -> None:
        super().__init__()
        self.num_features, self.pooled, self.patch_embed = C, pooled, TimmPatches(C, patch, flat=True)
        self.cls_token = nn.Parameter(torch.randn(1, 1, C))
        self.pos_embed = nn.Parameter(torch.randn(1, (SIDE // patch) ** 2 + 1, C))
        self.pos_drop, self.patch_drop, self.norm_pre = nn.Dropout(0.0), nn.Identity(), nn.Identity()
        self.blocks = nn.Sequential(*(TimmViTBlock(C, heads) for _ in range(depth)))
        norms = nn.Identity(), nn.LayerNorm(C, 1e-6)
        self.norm, self.fc_norm = norms if pooled else norms[::-1]
        self.head_drop, self.head = nn.Dropout(0.0), nn.Linear(C, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), self.patch_embed(x)], 1)
        x = self.norm(self.blocks(self.norm_pre(self.patch_drop(self.pos_drop(x + self.pos_embed)))))
        x = x[:, 1:].mean(1) if self.pooled else x[:, 0]
        return self.head(self.head_drop(self.fc_norm(x)))


class TorchvisionViTBlock(nn.Module):
    def __init__(self, C: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.ln_1, self.self_attention = nn.LayerNorm(C, 1e-6), nn.MultiheadAttention(C, heads, batch_first=True)
        self.dropout, self.ln_2, self.mlp = nn.Dropout(0.0), nn.LayerNorm(C, 1e-6), torchvision_mlp(C, hidden)

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        y = self.dropout(self.self_attention(y, y, y, need_weights=False)[0]) + x
        return y + self.mlp(self.ln_2(y))


class TorchvisionEncoder(nn.Module):
    def __init__(self, C: int, heads: int, hidden: int, depth: int, count: int) -> None:
        super().__init__()
        self.pos_embedding, self.dropout = nn.Parameter(torch.randn(1, count, C)), nn.Dropout(0.0)
        named = {f"encoder_layer_{at}": TorchvisionViTBlock(C, heads, hidden) for at in range(depth)}
        self.layers, self.ln = nn.Sequential(OrderedDict(named)), nn.LayerNorm(C, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.ln(self.layers(self.dropout(x + self.pos_embedding)))


class TorchvisionViT(nn.Module):
    def __init__(self, C: int = 24, heads: int = 3, patch: int = 8, depth: int = 2, hidden: int = 48) -> None:
        super().__init__()
        self.image_size, self.conv_proj = SIDE, nn.Conv2d(3, C, patch, patch)
        self.class_token = nn.Parameter(torch.randn(1, 1, C))
        self.encoder = TorchvisionEncoder(C, heads, hidden, depth, (SIDE // patch) ** 2 + 1)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(C, CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_proj(x).flatten(2).permute(0, 2, 1)
        return self.heads(self.encoder(torch.cat([self.class_token.expand(len(x), -1, -1), x], 1))[:, 0])


# ----------------------------------------------------------------------------------------------------------------------- Swin


def windows(x: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B H W / side^2, side^2, C)."""
    B, H, W, C = x.shape
    return x.reshape(B, H // side, side, W // side, side, C).transpose(2, 3).reshape(-1, side * side, C)


class SwinAttention(nn.Module):
    """Windowed attention of a map (B, H, W, C), moved by `shift`. The libraries' differ in a buffer being saved or not, and in
    where rolling and cutting stand, which is of no consequence to a last block's second half."""

    def __init__(self, C: int, heads: int, side: int, shift: int, *, saved: bool) -> None:
        super().__init__()
        self.heads, self.side, self.shift = heads, side, shift
        self.qkv, self.proj = nn.Linear(C, 3 * C), nn.Linear(C, C)
        self.relative_position_bias_table = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads))
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        down, right = (at[:, None] - at[None] + side - 1).unbind(-1)
        self.register_buffer("relative_position_index", (down * (2 * side - 1) + right).flatten(), persistent=saved)

    def _bias(self, x: Tensor) -> Tensor:
        """(windows, heads, N, N): of relative positions; what was not beside each other before rolling is kept apart."""
        N = self.side**2
        bias = self.relative_position_bias_table[self.relative_position_index].view(1, N, N, -1).permute(0, 3, 1, 2)
        if not self.shift:
            return bias
        region = torch.zeros(x.shape[1])
        region[-self.side :], region[-self.shift :] = 1, 2
        of = windows((3 * region[:, None] + region)[None, :, :, None], self.side)
        return (bias - 100 * (of != of.transpose(1, 2)).to(x)[:, None]).repeat(len(x), 1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x, bias = x.roll((-self.shift, -self.shift), (1, 2)), self._bias(x)
        x = attend(F.linear(windows(x, self.side), self.qkv.weight, self.qkv.bias), self.heads, bias)
        x = F.linear(x, self.proj.weight, self.proj.bias)
        x = x.reshape(B, H // self.side, W // self.side, self.side, self.side, C).transpose(2, 3).reshape(B, H, W, C)
        return x.roll((self.shift, self.shift), (1, 2))


class TimmSwinBlock(nn.Module):
    def __init__(self, C: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(C), SwinAttention(C, heads, side, shift, saved=False)
        self.drop_path1, self.norm2, self.mlp, self.drop_path2 = nn.Identity(), nn.LayerNorm(C), Mlp(C), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        B, H, W, C = x.shape
        x = x + self.drop_path1(self.attn(self.norm1(x)))
        x = x.reshape(B, -1, C)
        x = x + self.drop_path2(self.mlp(self.norm2(x)))
        return x.reshape(B, H, W, C)


class TimmSwinStage(nn.Module):
    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.downsample, self.blocks = nn.Identity(), nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.downsample(x))


class TimmSwin(Timm):
    def __init__(self, C: int = 24, heads: int = 3, patch: int = 4, side: int = 4) -> None:
        super().__init__()
        self.num_features, self.patch_embed = C, TimmPatches(C, patch, flat=False)
        self.layers = nn.Sequential(TimmSwinStage(*(TimmSwinBlock(C, heads, side, shift) for shift in (0, side // 2))))
        self.norm, self.head = nn.LayerNorm(C), Head(C, (1, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layers(self.patch_embed(x))))


class TorchvisionSwinBlock(nn.Module):
    def __init__(self, C: int, heads: int, side: int, shift: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(C), SwinAttention(C, heads, side, shift, saved=True)
        self.stochastic_depth, self.norm2, self.mlp = StochasticDepth(), nn.LayerNorm(C), torchvision_mlp(C, 4 * C)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.stochastic_depth(self.attn(self.norm1(x)))
        x = x + self.stochastic_depth(self.mlp(self.norm2(x)))
        return x


class TorchvisionSwin(nn.Module):
    def __init__(self, C: int = 24, heads: int = 3, patch: int = 4, side: int = 4) -> None:
        super().__init__()
        stem = nn.Sequential(nn.Conv2d(3, C, patch, patch), Permute(0, 2, 3, 1), nn.LayerNorm(C))
        blocks = nn.Sequential(*(TorchvisionSwinBlock(C, heads, side, shift) for shift in (0, side // 2)))
        self.features, self.norm, self.permute = nn.Sequential(stem, blocks), nn.LayerNorm(C), Permute(0, 3, 1, 2)
        self.avgpool, self.flatten, self.head = nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(C, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flatten(self.avgpool(self.permute(self.norm(self.features(x))))))
