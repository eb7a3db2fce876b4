# The shipped pipeline: all commands from the nodules to models/lung-nodule-small, in order.
# nodules_iso51 and nodules_native are folders of NIfTI pairs with a nodules.csv; lidc_shapes has outlines and ratings
# without images (shapes.npz, shapes.csv). A training that was cut off goes on.
uv run scripts/prepare_nodules.py --scans '[nodules_iso51, nodules_native]' --out data/joined --crop-size 48
uv run scripts/prepare_nodules.py --scans '[nodules_iso51, nodules_native]' --out data/joined07 --crop-size 72 \
    --spacing-mm 0.7
uv run scripts/train_vae.py --config configs/shipped/vae_1.yaml --data data/joined --out runs/shipped/vae_1
uv run scripts/train_vae.py --config configs/shipped/vae_1.yaml --config configs/shipped/vae_2.yaml --data data/joined \
    --initial runs/shipped/vae_1/model --out runs/shipped/vae_2
uv run scripts/train_vae.py --config configs/shipped/vae_1.yaml --config configs/shipped/vae_2.yaml \
    --config configs/shipped/vae_3.yaml --data data/joined --initial runs/shipped/vae_2/model --out runs/shipped/vae_3
uv run scripts/encode_latents.py --data data/joined07 --vae runs/shipped/vae_1/model --out data/latents \
    --spacing-mm 1 --crop-size 48 --variants 12 --variants-in-context 12
uv run scripts/train_ldm.py --config configs/shipped/ldm_1.yaml --data data/latents --vae runs/shipped/vae_1/model \
    --out runs/shipped/ldm_1
uv run scripts/train_ldm.py --config configs/shipped/ldm_1.yaml --config configs/shipped/ldm_2.yaml \
    --data data/latents --vae runs/shipped/vae_1/model --initial runs/shipped/ldm_1/pipeline --out runs/shipped/ldm_2
uv run scripts/train_ldm.py --config configs/shipped/ldm_1.yaml --config configs/shipped/ldm_3.yaml \
    --data data/latents --vae runs/shipped/vae_1/model --initial runs/shipped/ldm_2/pipeline --out runs/shipped/ldm_3
uv run scripts/train_ldm.py --config configs/shipped/ldm_1.yaml --config configs/shipped/ldm_3.yaml \
    --config configs/shipped/ldm_4.yaml --data data/latents --vae runs/shipped/vae_1/model \
    --initial runs/shipped/ldm_3/pipeline --out runs/shipped/ldm_4
uv run scripts/train_classifier.py --config configs/shipped/classifier.yaml --data data/latents \
    --pipeline runs/shipped/ldm_4/pipeline --out runs/shipped/classifier
uv run scripts/prepare_shapes.py --data lidc_shapes --nodules data/joined --out runs/shipped/shapes
uv run scripts/ship_pipeline.py --pipeline runs/shipped/classifier/pipeline --vae runs/shipped/vae_3/model \
    --shapes runs/shipped/shapes --time-shift 0.8 --finish true --out runs/shipped/pipeline
uv run scripts/inpaint_nodules.py --data data/joined --split validation --pipeline runs/shipped/pipeline \
    --out runs/shipped/lesions
uv run scripts/evaluate.py --real data/joined --real-split validation --synthetic shipped=runs/shipped/lesions \
    --train data/joined --detector figures --inception none --lpips-backbone none --out runs/shipped/report
uv run scripts/ship_pipeline.py --pipeline runs/shipped/pipeline --run runs/shipped/ldm_4 --report runs/shipped/report \
    --commands configs/shipped/commands.sh --out models/lung-nodule-small
