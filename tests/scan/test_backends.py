"""The choice among the backends, what each can take, and the one that is another library's."""

import sys
from types import SimpleNamespace

import pytest
import torch

from modeling_videomamba import SCAN_IMPLEMENTATIONS, VideoMambaModel, scan_backends, scan_report
from modeling_videomamba.modeling_videomamba import VideoMambaMixer
from modeling_videomamba.scan_backends import choose_backend
from modeling_videomamba.selective_scan import selective_scan_reference
from tests.conftest import assert_same, small_config
from tests.scan.inputs import inputs_of, reference, run


class TestChoice:
    def test_cpu_tensors_take_numba_then_torch(self, monkeypatch):
        found = {name: scan_backends.load("torch") for name in SCAN_IMPLEMENTATIONS}
        monkeypatch.setattr(scan_backends, "_LOADED", found)
        assert choose_backend("auto", "cpu", torch.bfloat16) == "numba"
        assert choose_backend("auto", "cpu", torch.float64) == "torch"
        assert choose_backend("auto", "cpu", torch.float16) == "torch"
        found["numba"] = "ModuleNotFoundError: No module named 'numba'"
        assert choose_backend("auto", "cpu") == "torch"

    def test_cuda_tensors_take_triton_then_mamba_ssm(self, monkeypatch):
        found = {name: scan_backends.load("torch") for name in SCAN_IMPLEMENTATIONS}
        monkeypatch.setattr(scan_backends, "_LOADED", found)
        assert choose_backend("auto", "cuda", torch.bfloat16) == "triton"
        assert choose_backend("mamba_ssm", "cuda", torch.bfloat16) == "mamba_ssm"
        found["triton"] = "ImportError: No module named 'triton'"
        assert choose_backend("auto", "cuda", torch.bfloat16) == "mamba_ssm"
        found["mamba_ssm"] = "ImportError: No module named 'mamba_ssm'"
        assert choose_backend("auto", "cuda", torch.bfloat16) == "torch"
        assert scan_report("cuda") == (
            "selective scan on cuda: torch (not triton: ImportError: No module named 'triton'; "
            "mamba_ssm: ImportError: No module named 'mamba_ssm'; numba: it needs CPU tensors, these are on cuda)"
        )

    def test_fp64_takes_torch_on_cuda_too(self, monkeypatch):
        monkeypatch.setitem(scan_backends._LOADED, "triton", scan_backends.load("torch"))
        assert choose_backend("auto", "cuda", torch.float64) == "torch"

    def test_a_card_too_old_for_triton_is_a_reason(self, monkeypatch):
        monkeypatch.setattr(scan_backends, "_LOADED", {})
        monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 0))
        with pytest.raises(RuntimeError, match=r"'triton' cannot run: .*needs compute capability 8\.0, this device has 7\.0"):
            choose_backend("triton", "cuda")

    def test_implementations_are_looked_for_before_anything_is_compiled(self, monkeypatch):
        """torch.compile cannot trace a failing import."""
        monkeypatch.setattr(scan_backends, "_LOADED", {})
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        VideoMambaModel(small_config(num_hidden_layers=1))
        assert scan_backends._LOADED.keys() == set(SCAN_IMPLEMENTATIONS)

    def test_report_says_what_runs_and_why_not_the_others(self):
        reason = "it needs CUDA tensors, these are on cpu"
        chosen = choose_backend("auto", "cpu")
        assert scan_report("cpu").startswith(f"selective scan on cpu: {chosen} (not triton: {reason}; mamba_ssm: {reason}")

    def test_from_pretrained_forces_one(self, tmp_path):
        VideoMambaModel(small_config()).save_pretrained(tmp_path)
        clip = torch.zeros(1, 4, 3, 32, 32)
        expected = VideoMambaModel.from_pretrained(tmp_path)(clip).pooler_output
        forced = VideoMambaModel.from_pretrained(tmp_path, scan_implementation="torch")
        assert_same(forced(clip).pooler_output, expected, 1e-5)
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run: it needs CUDA tensors"):
            VideoMambaModel.from_pretrained(tmp_path, scan_implementation="mamba_ssm")(clip)
        with pytest.raises(Exception, match="'scan_implementation' expected one of .* got cudnn"):
            VideoMambaModel.from_pretrained(tmp_path, scan_implementation="cudnn")

    def test_the_choice_is_logged_once_and_shown_in_repr(self, caplog):
        scan_backends._report_once.cache_clear()
        model = VideoMambaModel(small_config())
        with caplog.at_level("INFO", logger=scan_backends.logger.name):
            for _ in range(2):
                model(torch.zeros(1, 4, 3, 32, 32))
        assert caplog.messages.count(scan_report("cpu")) == 1
        assert "scan_implementation='auto'" in repr(model)

    def test_forced_implementation_that_cannot_run_says_why(self):
        with pytest.raises(RuntimeError, match="'mamba_ssm' cannot run: it needs CUDA tensors, these are on cpu"):
            run("mamba_ssm", inputs_of(9))

    def test_unknown_implementation_is_named_beside_the_known_ones(self):
        with pytest.raises(ValueError, match="'cudnn'.*auto, triton, mamba_ssm, numba, torch"):
            run("cudnn", inputs_of(9))


class TestMambaSsm:
    @pytest.fixture
    def stand_ins(self, monkeypatch):
        """mamba_ssm and causal_conv1d as CPU functions that take keywords only, taken for usable."""

        def selective_scan_fn(**kwargs):
            y, last_state = selective_scan_reference(**kwargs)
            return y.to(kwargs["u"].dtype), last_state.float()

        def causal_conv1d_fn(*, x, weight, bias, activation):
            assert activation == "silu"
            x = torch.nn.functional.conv1d(x, weight[:, None], bias, padding=weight.shape[1] - 1, groups=len(weight))
            return torch.nn.functional.silu(x[..., : 1 - weight.shape[1]])

        for name, functions in {
            "selective_scan_cuda": {},
            "mamba_ssm.ops.selective_scan_interface": {"selective_scan_fn": selective_scan_fn},
            "causal_conv1d": {"causal_conv1d_fn": causal_conv1d_fn},
        }.items():
            monkeypatch.setitem(sys.modules, name, SimpleNamespace(**functions))
        for package in ("mamba_ssm", "mamba_ssm.ops"):
            monkeypatch.setitem(sys.modules, package, SimpleNamespace())
        monkeypatch.delitem(sys.modules, "modeling_videomamba.selective_scan_mamba_ssm", raising=False)
        monkeypatch.setattr(scan_backends, "_LOADED", {})
        monkeypatch.setattr(scan_backends, "_why_not", lambda *_: None)

    @pytest.mark.parametrize("reverse", [False, True])
    def test_the_scan_calls_public_functions_by_keyword(self, stand_ins, reverse):
        inputs = inputs_of(9, reverse=(reverse,))
        for result, expected in zip(run("mamba_ssm", inputs), reference(inputs)):
            assert_same(result, expected, 1e-6)

    def test_the_mixer_calls_public_functions_by_keyword(self, stand_ins):
        torch.manual_seed(0)
        mixer = VideoMambaMixer(small_config(scan_implementation="mamba_ssm"), layer_idx=0)
        for parameter in mixer.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        hidden_states = torch.randn(2, 9, 32)
        out = mixer(hidden_states)
        mixer.scan_implementation = "torch"
        assert_same(out, mixer(hidden_states), 1e-5)
