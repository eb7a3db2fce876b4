"""Uploading and downloading models: our code and Diffusers' own clients against the server of `hub_server`."""

import filecmp
import http.client
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DiffusionPipeline, UNet2DModel
from hub_server import HubServer
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import BadRequestError, HfHubHTTPError

import autoencoder.kl
from autoencoder.kl import AutoencoderKL3D
from autoencoder.pretrained import resolve_folder
from diffusion.sampling.components import import_component_modules

REPO = "tester/nodules"


class TwoPartPipeline(DiffusionPipeline):
    """The least pipeline with a component of ours and one of Diffusers."""

    def __init__(self, vae: AutoencoderKL3D, scheduler: DDIMScheduler) -> None:
        super().__init__()
        self.register_modules(vae=vae, scheduler=scheduler)


def tiny_pipeline(seed: int) -> TwoPartPipeline:
    torch.manual_seed(seed)
    vae = AutoencoderKL3D(channels=(4,), blocks_per_level=1, latent_channels=2)
    return TwoPartPipeline(vae, DDIMScheduler(num_train_timesteps=16))


def load(folder: Path) -> TwoPartPipeline:
    import_component_modules(folder)
    return TwoPartPipeline.from_pretrained(folder, use_safetensors=True)


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    mine, other = a.state_dict(), b.state_dict()
    return mine.keys() == other.keys() and all(torch.equal(mine[key], other[key]) for key in mine)


def push(pipeline: DiffusionPipeline) -> str:
    """Upload to the main branch; the new commit's id."""
    return pipeline.push_to_hub(REPO).oid


def test_every_pushed_revision_is_loaded_back_by_id_tag_and_branch(hub_server: HubServer):
    first, second = tiny_pipeline(seed=1), tiny_pipeline(seed=2)
    sha_of_first = push(first)
    HfApi().create_tag(REPO, tag="v1")
    HfApi().create_branch(REPO, branch="kept/first", revision=sha_of_first)
    sha_of_second = push(second)

    assert sha_of_first != sha_of_second
    for revision in (sha_of_first, "v1", "kept/first"):
        assert same_weights(load(resolve_folder(REPO, revision=revision)).vae, first.vae)
    for revision in (None, "main", sha_of_second):
        assert same_weights(load(resolve_folder(REPO, revision=revision)).vae, second.vae)
    assert resolve_folder(REPO, revision="v1") == resolve_folder(REPO, revision=sha_of_first)


def test_a_snapshot_has_the_bytes_that_were_saved(hub_server: HubServer, tmp_path: Path):
    pipeline = tiny_pipeline(seed=3)
    pipeline.save_pretrained(tmp_path / "saved")
    push(pipeline)
    snapshot = resolve_folder(REPO, cache_dir=tmp_path / "cache")
    assert snapshot.is_relative_to(tmp_path / "cache")
    saved = sorted(str(p.relative_to(tmp_path / "saved")) for p in (tmp_path / "saved").rglob("*") if p.is_file())
    assert "vae/diffusion_pytorch_model.safetensors" in saved
    assert filecmp.cmpfiles(tmp_path / "saved", snapshot, saved, shallow=False) == (saved, [], [])
    assert "library_name: diffusers" in (snapshot / "README.md").read_text()


def test_weights_travel_by_lfs_and_unchanged_files_are_not_sent_again(hub_server: HubServer):
    pipeline = tiny_pipeline(seed=4)
    push(pipeline)
    uploads = [line for line in hub_server.requests if line.startswith("PUT /storage/")]
    assert len(uploads) == 1 and uploads[0].endswith(" 200")
    assert f"POST /{REPO}.git/info/lfs/objects/batch 200" in hub_server.requests
    assert f"POST /{REPO}.git/info/lfs/verify 200" in hub_server.requests

    snapshot = resolve_folder(REPO)
    sha256 = uploads[0].split()[1].removeprefix("/storage/")
    resolve_folder(REPO)
    assert hub_server.requests.count(f"GET /storage/{sha256} 200") == 1
    resolve_folder(REPO, force_download=True)
    assert hub_server.requests.count(f"GET /storage/{sha256} 200") == 2
    assert (snapshot / "vae/diffusion_pytorch_model.safetensors").resolve().name == sha256

    again = push(pipeline)
    assert [line for line in hub_server.requests if line.startswith("PUT /storage/")] == uploads
    assert again == snapshot.name  # nothing changed, so no commit was made


def test_only_json_safetensors_and_markdown_are_downloaded(hub_server: HubServer):
    push(tiny_pipeline(seed=5))
    for path in ("vae/diffusion_pytorch_model.bin", "vae/kl.py", "pipeline.py", "extra.pkl"):
        HfApi().upload_file(path_or_fileobj=b"not wanted", path_in_repo=path, repo_id=REPO)
    snapshot = resolve_folder(REPO)
    names = {str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()}
    config = {"model_index.json", "vae/config.json", "scheduler/scheduler_config.json"}
    assert names == config | {"vae/diffusion_pytorch_model.safetensors", "README.md"}


def test_the_cache_is_used_when_the_hub_is_gone_or_switched_off(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch):
    pipeline = tiny_pipeline(seed=6)
    sha = push(pipeline)
    snapshot = resolve_folder(REPO)
    hub_server.stop()
    assert resolve_folder(REPO) == snapshot  # the connection fails
    assert resolve_folder(REPO, revision=sha, local_files_only=True) == snapshot
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same_weights(load(resolve_folder(REPO)).vae, pipeline.vae)
    with pytest.raises(OSError, match=r"'tester/other': cannot be downloaded .* without HF_HUB_OFFLINE"):
        resolve_folder("tester/other")
    with pytest.raises(OSError, match=r"'tester/nodules' at revision 'v2': cannot be downloaded"):
        resolve_folder(REPO, revision="v2")


def test_an_interrupted_snapshot_is_not_taken_for_a_complete_one(hub_server: HubServer):
    push(tiny_pipeline(seed=7))
    (resolve_folder(REPO) / "vae/config.json").unlink()
    with pytest.raises(OSError, match="no complete snapshot"):
        resolve_folder(REPO, local_files_only=True)


@pytest.mark.slow
def test_a_new_process_is_led_by_the_environment_alone(hub_server: HubServer):
    """Upload here, download in a child, and load offline in another one after the server stopped."""
    sha = push(tiny_pipeline(seed=8))
    code = "import sys; from autoencoder.pretrained import resolve_folder; print(resolve_folder(*sys.argv[1:]))"
    command = [sys.executable, "-c", code, REPO, sha]
    online = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    hub_server.stop()
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    assert subprocess.run(command, capture_output=True, text=True, check=True, env=offline).stdout == online
    assert Path(online.strip()).is_relative_to(os.environ["HF_HOME"])
    missing = subprocess.run([*command[:-2], "tester/other"], capture_output=True, text=True, env=offline)
    assert missing.returncode == 1 and "OSError: 'tester/other': cannot be downloaded" in missing.stderr


def test_a_local_folder_is_returned_as_it_is(tmp_path: Path):
    assert resolve_folder(tmp_path) == tmp_path
    assert resolve_folder(str(tmp_path), revision="v1") == tmp_path


@pytest.mark.parametrize("name", ["runs/no/such/folder", "/no/such/folder", "../nodules", "two words/nodules"])
def test_what_is_neither_folder_nor_repository_id_is_named(name: str):
    with pytest.raises(ValueError, match="no such folder, and not a repository id; expected a folder or 'OWNER/NAME'"):
        resolve_folder(name)


def test_a_word_is_refused_with_the_names_of_the_shipped_pipelines_and_without_the_network(monkeypatch):
    monkeypatch.setattr("autoencoder.pretrained.snapshot_download", None)
    message = r"'nope': neither a folder, nor a shipped pipeline \(lung-nodule-small\), nor a repository 'OWNER/NAME'"
    with pytest.raises(ValueError, match=message):
        resolve_folder("nope")


@pytest.mark.parametrize("token", [None, False])
def test_an_unknown_repository_is_named(hub_server: HubServer, token: bool | None):
    with pytest.raises(ValueError, match="'tester/nodule': no such folder, and no such repository on the Hub"):
        resolve_folder("tester/nodule", token=token)


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_an_unknown_revision_is_named(hub_server: HubServer, revision: str):
    push(tiny_pipeline(seed=9))
    with pytest.raises(ValueError, match=f"revision '{revision}': not in repository 'tester/nodules'"):
        resolve_folder(REPO, revision=revision)


def test_a_private_repository_needs_the_token(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch):
    pipeline = tiny_pipeline(seed=10)
    pipeline.push_to_hub(REPO, private=True)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="pass token="):
        resolve_folder(REPO)
    with pytest.raises(OSError, match="Invalid credentials"):
        resolve_folder(REPO, token="hf_wrong")
    assert same_weights(load(resolve_folder(REPO, token=hub_server.token)).vae, pipeline.vae)


def test_pushing_without_the_token_is_refused(hub_server: HubServer, monkeypatch: pytest.MonkeyPatch):
    push(tiny_pipeline(seed=11))
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(HfHubHTTPError, match="401"):
        HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=REPO)
    assert len(hub_server.load(REPO)["commits"]) == 2  # the first, empty one and the pipeline's


@pytest.fixture
def kl_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process; the module that the other tests hold is put back afterwards."""
    monkeypatch.setattr(autoencoder, "kl", autoencoder.kl)
    monkeypatch.delitem(sys.modules, "autoencoder.kl")


@pytest.mark.usefixtures("kl_not_imported")
def test_component_modules_of_ours_are_imported(tmp_path: Path):
    tiny_pipeline(seed=12).save_pretrained(tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["vae"][0] == "autoencoder.kl"
    assert "autoencoder.kl" not in sys.modules
    import_component_modules(tmp_path)
    assert "autoencoder.kl" in sys.modules


@pytest.mark.usefixtures("kl_not_imported")
@pytest.mark.parametrize("library", ["evil.module", "evil", "os", "autoencoder_evil", "transformers", ".evil", ""])
def test_foreign_component_modules_are_refused_before_any_import(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "evil").mkdir()
    for name in ("evil/__init__.py", "evil/module.py", "autoencoder_evil.py"):
        (tmp_path / name).write_text("raise RuntimeError('this code has run')")
    monkeypatch.syspath_prepend(tmp_path)
    index = {"_class_name": "TwoPartPipeline", "vae": ["autoencoder.kl", "AutoencoderKL3D"], "bad": [library, "Any"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"model_index.json: component 'bad' is from library .*, expected diffusers"):
        import_component_modules(tmp_path)
    assert "autoencoder.kl" not in sys.modules and "evil" not in sys.modules


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "model_index.json: not found; expected a pipeline's folder"),
        ("{", "model_index.json: not a JSON object"),
        ("[1]", "model_index.json: not a JSON object"),
        ('{"vae": ["autoencoder.no_such", "Vae"]}', "'vae' needs module 'autoencoder.no_such'.* install the version"),
        ('{"vae": ["autoencoder..kl", "Vae"]}', r"'vae' needs module 'autoencoder\.\.kl'"),
    ],
)
def test_an_unusable_model_index_is_named(content: str | None, message: str, tmp_path: Path):
    if content is not None:
        (tmp_path / "model_index.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        import_component_modules(tmp_path)


def test_empty_components_and_plain_values_need_no_module(tmp_path: Path):
    index = {"guide": [None, None], "scheduler": ["diffusers", "DDIMScheduler"], "window": [1500, -400], "flag": True}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    import_component_modules(tmp_path)


def test_the_server_serves_stock_diffusers_pipelines(hub_server: HubServer):
    """The server is right for Diffusers' own download too, which asks for other things than a snapshot does."""
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(4,),
        norm_num_groups=2,
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        add_attention=False,
    )
    pipeline = DDIMPipeline(unet, DDIMScheduler())
    sha = push(pipeline)
    for revision in ("main", sha):
        loaded = DDIMPipeline.from_pretrained(REPO, revision=revision)
        assert same_weights(loaded.unet, pipeline.unet)


def test_the_server_refuses_what_the_hub_refuses(hub_server: HubServer, tmp_path: Path):
    api = HfApi()
    assert api.whoami()["name"] == "tester"
    api.create_repo(REPO)
    api.create_repo(REPO, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    with pytest.raises(ValueError, match=r"Invalid metadata in README\.md"):
        api.upload_file(path_or_fileobj=b"---\ntags: [a\n---\n", path_in_repo="README.md", repo_id=REPO)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(path_or_fileobj=b"1", path_in_repo="a.txt", repo_id=REPO, parent_commit="0" * 40)
    missing = {"path": "a.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1}
    lines = [{"key": "header", "value": {"summary": "s"}}, {"key": "lfsFile", "value": missing}]
    status, _ = ask(hub_server, "POST", f"/api/models/{REPO}/commit/main", "\n".join(map(json.dumps, lines)))
    assert status == 400
    assert ask(hub_server, "PUT", f"/storage/{'0' * 64}", "x", token=False)[0] == 403
    assert ask(hub_server, "PUT", f"/storage/{'0' * 64}?signature={hub_server.signature}", "x")[0] == 400
    with pytest.raises(BadRequestError):
        api.create_repo("tester/app", repo_type="space", space_sdk="static")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("someone/nodules")
    assert list(hub_server.load(REPO)["commits"].values())[-1]["title"] == "initial commit"


def test_files_are_deleted_listed_and_read_in_part(hub_server: HubServer):
    api = HfApi()
    api.create_repo(REPO)
    for path in ("a.json", "sub/b.json", "sub/deep/c.json"):
        api.upload_file(path_or_fileobj=b"0123456789", path_in_repo=path, repo_id=REPO)
    api.delete_file("a.json", REPO)
    assert api.list_repo_files(REPO) == [".gitattributes", "sub/b.json", "sub/deep/c.json"]
    assert [entry.path for entry in api.list_repo_tree(REPO, "sub")] == ["sub/b.json", "sub/deep"]
    api.delete_folder("sub/deep", REPO)
    assert [entry.path for entry in api.list_repo_tree(REPO, recursive=True)] == [".gitattributes", "sub", "sub/b.json"]
    assert [branch.name for branch in api.list_repo_refs(REPO).branches] == ["main"]

    path = f"/{REPO}/resolve/main/sub/b.json"
    assert ask(hub_server, "GET", path, range="bytes=3-5") == (206, b"345")
    assert ask(hub_server, "GET", path, range="bytes=8-") == (206, b"89")
    assert ask(hub_server, "GET", path, range="bytes=10-")[0] == 416


def test_unknown_requests_are_noted(hub_server: HubServer):
    assert ask(hub_server, "GET", "/api/spaces/tester/x")[0] == 404
    assert hub_server.unknown_requests == ["GET /api/spaces/tester/x"]
    hub_server.unknown_requests.clear()  # else the fixture fails the test


def ask(server: HubServer, method: str, path: str, body: str = "", token: bool = True, **headers: str):
    """One request without `huggingface_hub`: (status, body)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    login = {"Authorization": f"Bearer {server.token}"} if token else {}
    connection.request(method, path, body, {**login, **headers})
    answer = connection.getresponse()
    return answer.status, answer.read()
