"""What attacks that follow one another find: each is made on the images that withstood those before it."""

from .base import frozen, is_correct, predict


class Survivors:
    """The images of a task that are still rightly classified, and what the search has cost.

    Args:
        task (Task): what is attacked.
        clean (Tensor): (N,) bool, True where the unperturbed image is rightly classified: one forward pass.

    Attributes:
        robust (Tensor): (N,) bool, True where the image survived so far.
        adversarial (Tensor): (N, ...), a misclassified image where one was found, else the image itself.
        queries, gradients (int): forward and backward passes, in images.
    """

    def __init__(self, task, clean):
        self.task, self.clean, self.robust = task, clean, clean.clone()
        self.adversarial = task.images.clone()
        self.queries, self.gradients = len(clean), 0

    def rows(self):
        """The numbers of the survivors."""
        return self.robust.nonzero()[:, 0]

    @property
    def accuracy(self):
        """Their share of all images."""
        return self.robust.double().mean().item()

    def judge(self, rows, found):
        """Asks the model about the images `found` for `rows`; those that it misclassifies do not survive.

        Args:
            rows (Tensor): (n,) int64.
            found (Tensor): (n, ...), of the images' type.

        Returns:
            Tensor: (n,) bool, True where misclassified.
        """
        task = self.task
        with frozen(task.model):
            fooled = ~is_correct(predict(task.model, found, task.batch_size), task.labels[rows])
        self.adversarial[rows[fooled]] = found[fooled]
        self.robust[rows[fooled]] = False
        self.queries += len(rows)
        return fooled

    def add_cost(self, attack):
        """Counts what an attack has spent: an AttackResult, or a Counted model."""
        self.queries += attack.queries
        self.gradients += attack.gradients

    def result(self, **figures):
        """The AttackResult; `figures` are further ones of it."""
        return self.task.result(
            self.adversarial, self.robust, self.clean, self.queries, self.gradients, **figures
        )
