"""A task → a last layer by SpuCo's own GroupDRO with its groups: the outside yardstick."""

import numpy as np

from discovery.backends.roles import Head
from discovery.repairs.linear_fit import Scaled
from discovery.repairs.task import Task

EPOCHS = 10


def spuco_groupdro(task: Task) -> Head:
    """Trains a linear layer by SpuCo's own GroupDRO on the same standardised features and groups."""
    import torch
    from spuco.datasets import GroupLabeledDatasetWrapper
    from spuco.robust_train import GroupDRO

    torch.manual_seed(0)
    scaled = Scaled.of(task.features())
    x, label = torch.from_numpy(scaled.x), torch.from_numpy(task.label)
    partition = {(int(y), g): np.flatnonzero(task.groups.of == g).tolist() for g, y in enumerate(task.groups.label)}
    layer = torch.nn.Linear(x.shape[1], len(task.classes), bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.003, momentum=0.9, weight_decay=0.1)
    dataset = GroupLabeledDatasetWrapper(torch.utils.data.TensorDataset(x, label), partition)
    GroupDRO(layer, dataset, batch_size=max(128, 2 * len(partition)), optimizer=optimiser, num_epochs=EPOCHS).train()
    return scaled.head(layer.weight.detach().double().numpy(), task.classes)
